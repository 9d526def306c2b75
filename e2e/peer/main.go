// SPDX-License-Identifier: Apache-2.0

// Command peer is a plain HTTP/1.1 client or server on bare TCP sockets, for tests in
// which the exact reads and writes matter: an HTTP library reads ahead, and writes in
// its own pieces. Each request has a traceparent of its own and is timed by the
// client's clock.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/peer/ask"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("run without a role: give serve, ask or hold")
	}
	flags := flag.NewFlagSet("peer "+args[0], flag.ContinueOnError)
	server := flags.String("server", "", "IP:PORT of the server")
	plan := flags.String("plan", "[]", "ask: JSON list of the requests to send")
	together := flags.Bool("together", false, "ask: send all at the same time, each on a connection of its own")
	from := flags.String("from", "", "hold: addresses to connect from, separated by commas")
	connections := flags.Int("connections", 1000, "hold: number of connections")
	rate := flags.Int("rate", 2000, "hold: connections to open per second")
	every := flags.Duration("every", 0, "ask: interval between the repetitions of the plan, until SIGTERM; 0 to send it once")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "serve":
		return serve(*server)
	case "ask":
		var requests []ask.Request
		if err := json.Unmarshal([]byte(*plan), &requests); err != nil {
			return fmt.Errorf("read the plan: %w", err)
		}
		return send(*server, requests, *together, *every)
	case "hold":
		return hold(*server, strings.Split(*from, ","), *connections, *rate)
	default:
		return fmt.Errorf("unknown role %q: give serve, ask or hold", args[0])
	}
}

// terminated is closed at SIGTERM.
func terminated() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	return c
}

// output writes one JSON line per event to standard output, at once.
var output sync.Mutex

func say(e ask.Event) error {
	output.Lock()
	defer output.Unlock()
	return json.NewEncoder(os.Stdout).Encode(e)
}

// send sends the requests of a plan, in turn or together.
func send(server string, plan []ask.Request, together bool, every time.Duration) error {
	end := terminated()
	for {
		var group sync.WaitGroup
		failed := make(chan error, len(plan))
		for _, r := range plan {
			one := func() { failed <- exchange(server, r, every > 0) }
			if together {
				group.Go(one)
			} else {
				one()
			}
		}
		group.Wait()
		close(failed)
		for err := range failed {
			if err != nil {
				return err
			}
		}
		if every == 0 {
			return nil
		}
		select {
		case <-end:
			return nil
		case <-time.After(every): // the pace of the requests
		}
	}
}

// exchange sends a request on a connection of its own and reads the response.
func exchange(server string, r ask.Request, fresh bool) error {
	conn, err := dial(server, r.Window)
	if err != nil {
		return err
	}
	defer conn.Close()
	if fresh {
		r.TraceID = ask.NewTraceID()
	}
	message := ask.Head(r.TraceID, r.Path)
	if r.Body > 0 {
		message = append(ask.UploadHead(r.TraceID, r.Path, r.Body), make([]byte, r.Body)...)
	}
	start := time.Now()
	if err := say(ask.Event{TraceID: r.TraceID, Path: r.Path, Start: start}); err != nil {
		return err
	}
	if _, err := conn.Write(message); err != nil {
		return fmt.Errorf("send %s: %w", r.Path, err)
	}
	reader := &response{conn: conn}
	if err := reader.head(); err != nil {
		return fmt.Errorf("read the response to %s: %w", r.Path, err)
	}
	time.Sleep(r.ReadAfter) // the slow reader
	if err := reader.body(); err != nil {
		return fmt.Errorf("read the response to %s: %w", r.Path, err)
	}
	return say(ask.Event{TraceID: r.TraceID, Path: r.Path, Start: start, Took: time.Since(start), Bytes: reader.bytes})
}

// dial connects with a receive buffer of some size; 0 for the kernel's.
func dial(server string, window int) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second, Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if window == 0 {
			return nil
		}
		if ctl := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, window)
		}); ctl != nil {
			return ctl
		}
		return err
	}}
	conn, err := dialer.Dial("tcp4", server)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", server, err)
	}
	return conn, nil
}
