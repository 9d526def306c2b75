// SPDX-License-Identifier: Apache-2.0

package span

import (
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// Attributes of our own. docs/attributes.md tells unit and meaning.
const (
	keyLayer        = attribute.Key("layertrace.layer")
	keyPoint        = attribute.Key("layertrace.capture_point")
	keyDirection    = attribute.Key("layertrace.direction")
	keyFormat       = attribute.Key("layertrace.context.format")
	keyHeaderOffset = attribute.Key("layertrace.context.offset_bytes")

	keyMonotonic     = attribute.Key("layertrace.monotonic_ns")
	keyRequestFirst  = attribute.Key("layertrace.request.first_ns")
	keyRequestLast   = attribute.Key("layertrace.request.last_ns")
	keyResponseFirst = attribute.Key("layertrace.response.first_ns")
	keyResponseLast  = attribute.Key("layertrace.response.last_ns")

	keyRequestBytes    = attribute.Key("layertrace.request.bytes")
	keyRequestPackets  = attribute.Key("layertrace.request.packets")
	keyResponseBytes   = attribute.Key("layertrace.response.bytes")
	keyResponsePackets = attribute.Key("layertrace.response.packets")

	keyRetransmits  = attribute.Key("layertrace.retransmits")
	keyConnectionID = attribute.Key("layertrace.connection_id")
	keyOptionTime   = attribute.Key("layertrace.option_time_ns")
	keyOptionLost   = attribute.Key("layertrace.option_lost")
	keyFlags        = attribute.Key("layertrace.flags")

	keyClientService = attribute.Key("layertrace.client.service")
	keyClientNode    = attribute.Key("layertrace.client.node")
	keyServerService = attribute.Key("layertrace.server.service")
	keyServerNode    = attribute.Key("layertrace.server.node")
)

// spanKeys are all attributes that a span can have.
var spanKeys = []attribute.Key{
	keyDirection, keyFormat, keyHeaderOffset,
	keyMonotonic, keyRequestFirst, keyRequestLast, keyResponseFirst, keyResponseLast,
	keyRequestBytes, keyRequestPackets, keyResponseBytes, keyResponsePackets,
	keyRetransmits, keyConnectionID, keyOptionTime, keyOptionLost, keyFlags,
	keyClientService, keyClientNode, keyServerService, keyServerNode,
	semconv.NetworkTypeKey, semconv.ClientAddressKey, semconv.ClientPortKey, semconv.ServerAddressKey, semconv.ServerPortKey,
	semconv.HTTPResponseStatusCodeKey,
}

// resourceKeys are all attributes that a span's resource can have.
var resourceKeys = []attribute.Key{
	semconv.ServiceNameKey, semconv.ServiceNamespaceKey, semconv.HostNameKey,
	semconv.K8SNamespaceNameKey, semconv.K8SPodNameKey, semconv.K8SPodUIDKey, semconv.K8SNodeNameKey,
	semconv.K8SDeploymentNameKey, semconv.K8SStatefulSetNameKey, semconv.K8SDaemonSetNameKey,
	semconv.K8SReplicaSetNameKey, semconv.K8SJobNameKey, semconv.K8SCronJobNameKey,
	keyLayer, keyPoint, semconv.NetworkInterfaceNameKey,
}
