// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"net"
	"strconv"

	"github.com/layertrace/layertrace/e2e/lab/traffic"
)

// FrontPage is the URL of the front page at the ingress gateway.
func FrontPage() string {
	for _, pod := range Pods {
		if pod.Gateway {
			return "http://" + net.JoinHostPort(pod.IP, strconv.Itoa(GatewayPort)) + "/productpage"
		}
	}
	panic("the lab has no gateway")
}

// Send sends load from the client node; an empty URL is the front page's.
func (l *Lab) Send(ctx context.Context, load traffic.Load) (traffic.Result, error) {
	if load.URL == "" {
		load.URL = FrontPage()
	}
	load.Dial = l.network.nodes[ClientNode].DialContext
	return traffic.Send(ctx, load)
}
