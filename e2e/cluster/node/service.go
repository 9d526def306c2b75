// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/layertrace/layertrace/e2e/cluster"
)

// services does what kube-proxy would do for the one service that pods need,
// the API server's: from pods of the node's network and from others.
const services = `table ip services {
	chain output {
		type nat hook output priority -100;
		ip daddr ` + cluster.ServiceIP + ` tcp dport 443 dnat to ` + cluster.BridgeIP + `:6443
	}
	chain prerouting {
		type nat hook prerouting priority -100;
		ip daddr ` + cluster.ServiceIP + ` tcp dport 443 dnat to ` + cluster.BridgeIP + `:6443
	}
}
`

// translate sends what goes to the API server's service to the API server.
func (n *Node) translate(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(services)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.Space.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("translate the API server's address (needs nft): %w\n%s", err, out.String())
	}
	return nil
}
