// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Match says which packets are slow.
type Match struct {
	// Port is the server's; Response chooses what comes from it, otherwise what
	// goes to it.
	Port     uint16
	Response bool
	// Longer is the length that an IPv4 packet, before it is cut into segments,
	// must have and one byte more.
	Longer int
}

var table = &nftables.Table{Name: "layertrace-faults", Family: nftables.TableFamilyIPv4}

// mark gives the packets that leave by nic a priority that names the class. It
// comes last: addresses and ports are those on the wire.
func (m Match) mark(space *sandbox.Namespace, nic string, class uint32) error {
	conn, err := nftables.New(nftables.WithNetNSFd(space.FD()))
	if err != nil {
		return fmt.Errorf("open nftables in %s: %w", space.Name, err)
	}
	conn.AddTable(table)
	chain := conn.AddChain(&nftables.Chain{
		Name: "mark", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(300),
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: m.rule(nic, class)})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("mark packets in %s (needs nf_tables): %w", space.Name, err)
	}
	return nil
}

func (m Match) rule(nic string, class uint32) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, nic)
	port := uint32(2)
	if m.Response {
		port = 0
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(m.Port)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint16(uint16(m.Longer))},
		&expr.Counter{},
		&expr.Immediate{Register: 1, Data: binary.NativeEndian.AppendUint32(nil, class)},
		&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: 1, SourceRegister: true},
	}
}

// unmark removes what mark made.
func unmark(space *sandbox.Namespace) error {
	conn, err := nftables.New(nftables.WithNetNSFd(space.FD()))
	if err != nil {
		return fmt.Errorf("open nftables in %s: %w", space.Name, err)
	}
	conn.DelTable(table)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("stop marking packets in %s: %w", space.Name, err)
	}
	return nil
}
