// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/identity"
)

// Identity tells who is behind an interface of this node and who has an
// address. A source that follows a cluster can take the static file's place;
// it must be safe for use by several goroutines.
type Identity interface {
	Behind(ifindex int, name string) (identity.Workload, bool)
	Peer(netip.Addr) (identity.Workload, bool)
}

// naming is an identity source and the name of this node.
type naming struct {
	Identity
	node string
}

// loadIdentity reads the identity file. The node's name is that of --node, else
// the file's, else the host name.
func loadIdentity(cfg *config.Config) (naming, error) {
	static := &identity.Static{}
	if cfg.Identity != "" {
		var err error
		if static, err = identity.Load(cfg.Identity); err != nil {
			return naming{}, err
		}
	}
	n := naming{Identity: static, node: cfg.Node}
	if n.node == "" {
		n.node = static.Node()
	}
	if n.node == "" {
		var err error
		if n.node, err = os.Hostname(); err != nil {
			return naming{}, fmt.Errorf("find out this node's name: %w; set --node", err)
		}
	}
	return n, nil
}
