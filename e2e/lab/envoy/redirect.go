// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/lab/netspace"
)

// UID and GID are user and group of the Envoy processes, as of Istio's proxy
// (its --proxy-uid and --proxy-gid). The redirection leaves alone what the group
// sends.
const (
	UID = 1337
	GID = 1337
)

// Redirect sends the pod's TCP traffic through its Envoy, as Istio's init
// container does: connections to inboundPort to Envoy's inbound listener, and
// all that processes other than Envoy open, except to loopback addresses, to
// its outbound listener.
func Redirect(pod *netspace.Space, inboundPort uint16) error {
	conn, err := nftables.New(nftables.WithNetNSFd(pod.FD()))
	if err != nil {
		return fmt.Errorf("open nftables in %s: %w", pod.Name, err)
	}
	table := conn.AddTable(&nftables.Table{Name: "layertrace-lab", Family: nftables.TableFamilyIPv4})
	natChain := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: hook, Priority: nftables.ChainPriorityNATDest,
		})
	}
	inbound := natChain("inbound", nftables.ChainHookPrerouting)
	outbound := natChain("outbound", nftables.ChainHookOutput)

	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, part := range parts {
			all = append(all, part...)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: all})
	}
	rule(inbound, tcp(), destinationPort(inboundPort), redirectTo(InboundPort))
	rule(outbound, socketGroup(GID), accept())
	rule(outbound, loopbackDestination(), accept())
	rule(outbound, tcp(), redirectTo(OutboundPort))
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("redirect the traffic of %s to its Envoy (needs nf_tables, nft_nat, nft_redir): %w", pod.Name, err)
	}
	return nil
}

// tcp matches TCP.
func tcp() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}
}

// destinationPort matches the port in the TCP header.
func destinationPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// socketGroup matches packets of processes with this group ID.
func socketGroup(gid uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKGID, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, gid)},
	}
}

// loopbackDestination matches packets to 127.0.0.0/8.
func loopbackDestination() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{127}},
	}
}

func redirectTo(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}

func accept() []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
}
