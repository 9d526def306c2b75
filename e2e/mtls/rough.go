// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/lab"
)

// Rough is a load in which much goes wrong: retries, resets, aborts, responses that begin
// before their request has ended. The lab's Setup.Rough closes connections as well.
type Rough struct {
	Requests, Parallel int
	Seed               uint64
}

// RoughResult says how the requests ended for the client.
type RoughResult struct {
	Answered int64 `json:"answered"`
	Failed   int64 `json:"failed"`
	Aborted  int64 `json:"aborted"`
}

func (r *RoughResult) add(other RoughResult) {
	r.Answered += other.Answered
	r.Failed += other.Failed
	r.Aborted += other.Aborted
}

// The kinds of requests, in thousandths of all; the rest are plain ones with bodies.
var roughShares = []struct {
	share int
	kind  roughKind
}{
	{50, retry503}, {50, retryReset}, {20, resetInside}, {20, early}, {50, streamed}, {50, expected}, {20, aborted},
}

type roughKind int

const (
	plain roughKind = iota
	retry503
	retryReset
	resetInside
	early
	streamed
	expected
	aborted
)

// Send sends the load to the gateway of a lab. A request that fails is counted, as many do.
func (r Rough) Send(ctx context.Context, l *lab.Lab) (result RoughResult, err error) {
	transport := &http.Transport{
		DialContext:     l.NodeNamespace(lab.ClientNode).DialContext,
		MaxConnsPerHost: r.Parallel, MaxIdleConnsPerHost: r.Parallel, DisableCompression: true,
		ExpectContinueTimeout: 5 * time.Second,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range r.Parallel {
		group.Go(func() error {
			for {
				i := next.Add(1) - 1
				if i >= int64(r.Requests) {
					return nil
				}
				// Each request by numbers of its own, whichever goroutine sends it.
				random := rand.New(rand.NewPCG(r.Seed, uint64(i)))
				kind := draw(random)
				err := one(ctx, client, kind, random)
				switch {
				case ctx.Err() != nil:
					return ctx.Err()
				case err == nil:
					atomic.AddInt64(&result.Answered, 1)
				case errors.Is(err, errAborted):
					atomic.AddInt64(&result.Aborted, 1)
				default:
					atomic.AddInt64(&result.Failed, 1)
				}
			}
		})
	}
	return result, group.Wait()
}

func draw(random *rand.Rand) roughKind {
	n := random.IntN(1000)
	for _, s := range roughShares {
		if n -= s.share; n < 0 {
			return s.kind
		}
	}
	return plain
}

// size draws a length up to most: each power of two is as likely as the next.
func size(random *rand.Rand, most float64) int {
	return int(math.Exp(random.Float64() * math.Log(most)))
}

var errAborted = errors.New("aborted by the client")

// one sends a request of a kind and reads the response.
func one(ctx context.Context, client *http.Client, kind roughKind, random *rand.Rand) error {
	query, up := url.Values{}, 0
	if random.IntN(2) == 0 {
		up = size(random, 200e3)
	}
	query.Set("down", strconv.Itoa(size(random, 300e3)))
	switch kind {
	case retry503, retryReset:
		query.Set("fail", map[roughKind]string{retry503: "503", retryReset: "reset"}[kind])
		query.Set("times", strconv.Itoa(1+random.IntN(2)))
	case resetInside:
		query.Set("reset", "")
		query.Set("down", strconv.Itoa(10e3+size(random, 200e3)))
	case early:
		query.Set("early", "")
		up = 200e3 + random.IntN(700e3)
	case streamed:
		query.Set("parts", "5")
	case expected:
		up = 1 + size(random, 200e3)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if kind == aborted {
		// Some before the response, some inside it, some after.
		timer := time.AfterFunc(time.Duration(random.Float64()*float64(6*time.Millisecond)), cancel)
		defer timer.Stop()
	}
	var body io.Reader
	method := http.MethodGet
	if up > 0 {
		method, body = http.MethodPost, &upload{left: up, slow: kind == early}
	}
	target := strings.TrimSuffix(lab.FrontPage(), "/productpage") + "/rough?" + query.Encode()
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	request.ContentLength = int64(up)
	request.Header.Set("traceparent", fmt.Sprintf("00-%016x%016x-%016x-01", random.Uint64(), random.Uint64()|1, random.Uint64()|1))
	if kind == expected {
		request.Header.Set("Expect", "100-continue")
	}
	response, err := client.Do(request)
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body)
		err = errors.Join(err, response.Body.Close())
	}
	if err != nil && ctx.Err() != nil {
		return errAborted
	}
	return err
}

// upload is a request's body. A slow one takes long enough for the response to begin.
type upload struct {
	left int
	slow bool
}

func (u *upload) Read(p []byte) (int, error) {
	if u.left == 0 {
		return 0, io.EOF
	}
	if u.slow {
		time.Sleep(300 * time.Microsecond) // the pace of a slow client
	}
	n := min(u.left, len(p))
	for i := range p[:n] {
		p[i] = 'y'
	}
	u.left -= n
	return n, nil
}
