// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/agent/internal/status"
)

// optionalServer is the status server, or nothing when it is turned off.
type optionalServer struct{ server *status.Server }

func listen(address string) (optionalServer, error) {
	if address == "" {
		return optionalServer{}, nil
	}
	s, err := status.Listen(address)
	return optionalServer{s}, err
}

func (o optionalServer) serve(metrics prometheus.Gatherer, ready status.Ready, log *slog.Logger) {
	if o.server != nil {
		o.server.Serve(metrics, ready, log)
	}
}

func (o optionalServer) address() string {
	if o.server == nil {
		return "off"
	}
	return o.server.Address()
}

// close gives a running scrape a moment; the agent is done by then, so a
// scrape that is cut off has nothing more to learn.
func (o optionalServer) close() {
	if o.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = o.server.Close(ctx) // at the end of the process nobody can act on it
}
