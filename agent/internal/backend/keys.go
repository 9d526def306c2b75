// SPDX-License-Identifier: Apache-2.0

package backend

// Attributes of a sighting; docs/attributes.md tells unit and meaning.
const (
	keyService   = "service.name"
	keyNode      = "host.name"
	keyPod       = "k8s.pod.name"
	keyInterface = "network.interface.name"
	keyPointKind = "layertrace.capture_point.kind"
	// keyOldKind said what keyPointKind says, in the resource too.
	keyOldKind = "layertrace.layer"

	keyDirection     = "layertrace.direction"
	keyClientAddress = "client.address"
	keyClientPort    = "client.port"
	keyServerAddress = "server.address"
	keyServerPort    = "server.port"
	keyClientName    = "layertrace.client.service"
	keyServerName    = "layertrace.server.service"
	keyStatus        = "http.response.status_code"

	keyMonotonic = "layertrace.monotonic_ns"
	keyRequest   = "layertrace.request."
	keyResponse  = "layertrace.response."
	// behind keyRequest and keyResponse:
	keyFirst         = "first_ns"
	keyLast          = "last_ns"
	keyHandoverFirst = "handover_first_ns"
	keyHandoverLast  = "handover_last_ns"
	keyAcknowledged  = "acknowledged_ns"
	keyBytes         = "bytes"
	keyPackets       = "packets"

	keySide         = "layertrace.socket.side"
	keyProcess      = "layertrace.socket.process"
	keyRetransmits  = "layertrace.retransmits"
	keyDrops        = "layertrace.drops"
	keyDropReason   = "layertrace.drop_reason"
	keyZeroWindows  = "layertrace.zero_windows"
	keySRTT         = "layertrace.srtt_ns"
	keyConnectionID = "layertrace.connection_id"
	keyFlags        = "layertrace.flags"
)
