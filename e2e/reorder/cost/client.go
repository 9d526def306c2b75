// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// request is the head of a request in the middle of a mesh: what an application
// passes on of the trace it is in, and what HTTP clients and proxies add. Envoy
// adds the rest, the 1,100 bytes of x-envoy-peer-metadata among it. The trace is
// not sampled, as most of a mesh are not: no spans are sent.
const request = "GET /reviews/0 HTTP/1.1\r\n" +
	"host: reviews.default.svc.cluster.local:9080\r\n" +
	"user-agent: python-requests/2.32.3\r\n" +
	"accept-encoding: gzip, deflate\r\n" +
	"accept: */*\r\n" +
	"accept-language: en-US,en;q=0.9\r\n" +
	"cookie: session=eyJ1c2VyIjoiamFzb24ifQ.Z0Fh1g.q8m1yq0zQe4bq3o1rY8pUuXhKkE; locale=en\r\n" +
	"end-user: jason\r\n" +
	"x-request-id: 3f0c3b1e-5f0e-4b7a-8a0e-6f2d1c9b7a55\r\n" +
	"x-b3-traceid: 0af7651916cd43dd8448eb211c80319c\r\n" +
	"x-b3-spanid: b7ad6b7169203331\r\n" +
	"x-b3-parentspanid: 8448eb211c80319c\r\n" +
	"x-b3-sampled: 0\r\n" +
	"x-forwarded-client-cert: By=spiffe://cluster.local/ns/default/sa/productpage;Hash=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08;URI=spiffe://cluster.local/ns/istio-system/sa/gateway\r\n" +
	"\r\n"

// response is what the upstream answers. Envoy adds headers to it, of the same
// length each time but for the time that it took.
const response = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

// send sends the request so often over some keep-alive connections, one after
// the other on each, and returns how long each took.
func send(ctx context.Context, address netip.AddrPort, requests, connections int) ([]time.Duration, error) {
	latencies := make([][]time.Duration, connections)
	group, ctx := errgroup.WithContext(ctx)
	for i := range connections {
		group.Go(func() (err error) {
			latencies[i], err = sendOne(ctx, address, request, requests/connections)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("send requests to Envoy: %w", err)
	}
	return slices.Concat(latencies...), nil
}

func sendOne(ctx context.Context, address netip.AddrPort, request string, requests int) ([]time.Duration, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	latencies := make([]time.Duration, 0, requests)
	buffer := make([]byte, 4096)
	for range requests {
		began := time.Now()
		if _, err := io.WriteString(conn, request); err != nil {
			return nil, err
		}
		if err := readResponse(conn, buffer); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(began))
	}
	return latencies, nil
}

// readResponse reads one answer, which ends with the upstream's body.
func readResponse(conn net.Conn, buffer []byte) error {
	size := 0
	for {
		n, err := conn.Read(buffer[size:])
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		size += n
		answer := string(buffer[:size])
		if strings.HasSuffix(answer, "\r\n\r\n{}") {
			if !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
				return fmt.Errorf("answered with %.60q", answer)
			}
			return nil
		}
		if size == len(buffer) || strings.Contains(answer, "\r\n\r\n") && !strings.Contains(answer, " 200 ") {
			return fmt.Errorf("answered with %.60q", answer)
		}
	}
}
