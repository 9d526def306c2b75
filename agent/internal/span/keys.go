// SPDX-License-Identifier: Apache-2.0

package span

import (
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// Attributes of our own. docs/attributes.md tells unit and meaning.
const (
	keyKind         = attribute.Key("layertrace.capture_point.kind")
	keyPoint        = attribute.Key("layertrace.capture_point")
	keyDirection    = attribute.Key("layertrace.direction")
	keyFormat       = attribute.Key("layertrace.context.format")
	keyHeaderOffset = attribute.Key("layertrace.context.offset_bytes")

	keyMonotonic     = attribute.Key("layertrace.monotonic_ns")
	keyRequestFirst  = attribute.Key("layertrace.request.first_ns")
	keyRequestLast   = attribute.Key("layertrace.request.last_ns")
	keyResponseFirst = attribute.Key("layertrace.response.first_ns")
	keyResponseLast  = attribute.Key("layertrace.response.last_ns")

	keyRequestHandoverFirst  = attribute.Key("layertrace.request.handover_first_ns")
	keyRequestHandoverLast   = attribute.Key("layertrace.request.handover_last_ns")
	keyResponseHandoverFirst = attribute.Key("layertrace.response.handover_first_ns")
	keyResponseHandoverLast  = attribute.Key("layertrace.response.handover_last_ns")

	keyRequestAcknowledged  = attribute.Key("layertrace.request.acknowledged_ns")
	keyResponseAcknowledged = attribute.Key("layertrace.response.acknowledged_ns")

	keyProcess     = attribute.Key("layertrace.socket.process")
	keySide        = attribute.Key("layertrace.socket.side")
	keyCookie      = attribute.Key("layertrace.socket.cookie")
	keySRTT        = attribute.Key("layertrace.srtt_ns")
	keyZeroWindows = attribute.Key("layertrace.zero_windows")
	keyDrops       = attribute.Key("layertrace.drops")
	keyDropReason  = attribute.Key("layertrace.drop_reason")

	keyRequestBytes    = attribute.Key("layertrace.request.bytes")
	keyRequestPackets  = attribute.Key("layertrace.request.packets")
	keyResponseBytes   = attribute.Key("layertrace.response.bytes")
	keyResponsePackets = attribute.Key("layertrace.response.packets")

	keyRetransmits  = attribute.Key("layertrace.retransmits")
	keyConnectionID = attribute.Key("layertrace.connection_id")
	keyOptionTime   = attribute.Key("layertrace.option_time_ns")
	keyOptionLost   = attribute.Key("layertrace.option_lost")
	keyFlags        = attribute.Key("layertrace.flags")

	keyLayer  = attribute.Key("layertrace.layer")
	keyPlace  = attribute.Key("layertrace.location")
	keyWay    = attribute.Key("layertrace.phase")
	keyWhere  = attribute.Key("layertrace.between")
	keyCovers = attribute.Key("layertrace.merged_layers")

	keyClientService = attribute.Key("layertrace.client.service")
	keyClientNode    = attribute.Key("layertrace.client.node")
	keyServerService = attribute.Key("layertrace.server.service")
	keyServerNode    = attribute.Key("layertrace.server.node")
)

// spanKeys are all attributes that a span can have.
var spanKeys = []attribute.Key{
	keyDirection, keyFormat, keyHeaderOffset,
	keyMonotonic, keyRequestFirst, keyRequestLast, keyResponseFirst, keyResponseLast,
	keyRequestHandoverFirst, keyRequestHandoverLast, keyResponseHandoverFirst, keyResponseHandoverLast,
	keyRequestAcknowledged, keyResponseAcknowledged,
	keySide, keyCookie, keySRTT, keyZeroWindows, keyDrops, keyDropReason,
	keyRequestBytes, keyRequestPackets, keyResponseBytes, keyResponsePackets,
	keyRetransmits, keyConnectionID, keyOptionTime, keyOptionLost, keyFlags,
	keyClientService, keyClientNode, keyServerService, keyServerNode,
	keyLayer, keyPlace, keyWay, keyWhere, keyCovers,
	semconv.NetworkTypeKey, semconv.ClientAddressKey, semconv.ClientPortKey, semconv.ServerAddressKey, semconv.ServerPortKey,
	semconv.HTTPResponseStatusCodeKey,
}

// resourceKeys are all attributes that a span's resource can have.
var resourceKeys = []attribute.Key{
	semconv.ServiceNameKey, semconv.ServiceNamespaceKey, semconv.HostNameKey,
	semconv.K8SNamespaceNameKey, semconv.K8SPodNameKey, semconv.K8SPodUIDKey, semconv.K8SNodeNameKey,
	semconv.K8SDeploymentNameKey, semconv.K8SStatefulSetNameKey, semconv.K8SDaemonSetNameKey,
	semconv.K8SReplicaSetNameKey, semconv.K8SJobNameKey, semconv.K8SCronJobNameKey,
	keyKind, keyPoint, keyProcess, semconv.NetworkInterfaceNameKey,
}
