// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/internal/exchange"
)

// readPoint reads where the exchange was seen.
func readPoint(s *layer.Sighting, r *record) error {
	s.Node = r.resource.text(keyNode)
	if s.Node == "" {
		return errors.New(keyNode + " is missing, so its node is not known")
	}
	kind := r.resource.text(keyPointKind)
	if kind == "" {
		kind = r.resource.text(keyOldKind)
	}
	s.Kind = layer.Kind(kind)
	switch s.Kind {
	case layer.Socket:
	case layer.VNIC, layer.PNIC:
		s.Interface = r.resource.text(keyInterface)
	default:
		return fmt.Errorf("%s is %q, which is no kind of capture point", keyPointKind, kind)
	}
	if s.Kind != layer.PNIC {
		s.Pod = r.resource.text(keyPod)
		if s.Service = r.service; s.Service == s.Node {
			s.Service = "" // the node stands for a workload that nobody knows
		}
	}
	if s.Kind == layer.Socket {
		return readSocket(s, r)
	}
	switch direction := r.attributes.text(keyDirection); direction {
	case exchange.DirectionIngress.String():
		s.Direction = exchange.DirectionIngress
	case exchange.DirectionEgress.String():
		s.Direction = exchange.DirectionEgress
	case "", exchange.DirectionUnknown.String():
	default:
		return fmt.Errorf("%s is %q, neither ingress nor egress", keyDirection, direction)
	}
	return nil
}

// readSocket reads whose socket it is.
func readSocket(s *layer.Sighting, r *record) error {
	switch side := r.attributes.text(keySide); side {
	case "client":
		s.Sender = true
	case "server":
	default:
		return fmt.Errorf("%s is %q, neither client nor server", keySide, side)
	}
	switch process := layer.Process(r.resource.text(keyProcess)); process {
	case layer.Sidecar, layer.AppProcess:
		s.Process = process
	}
	return nil
}

// readEnds reads both ends of the connection.
func readEnds(s *layer.Sighting, a attributes) (err error) {
	s.ClientName, s.ServerName = a.text(keyClientName), a.text(keyServerName)
	if s.Client, err = endpoint(a, keyClientAddress, keyClientPort); err != nil {
		return err
	}
	s.Server, err = endpoint(a, keyServerAddress, keyServerPort)
	return err
}

func endpoint(a attributes, address, port string) (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(a.text(address))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s is %q, which is no address", address, a.text(address))
	}
	n, ok, err := a.integer(port)
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case !ok || n < 0 || n > math.MaxUint16:
		return netip.AddrPort{}, fmt.Errorf("%s is missing or no port", port)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
}
