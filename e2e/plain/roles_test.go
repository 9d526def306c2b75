// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The test binary plays the processes of the machine.
const (
	roleEnv  = "LAYERTRACE_PLAIN_TEST_ROLE"
	dirEnv   = "LAYERTRACE_PLAIN_TEST_DIR"
	traceEnv = "LAYERTRACE_PLAIN_TEST_TRACE" // empty: no trace context
	pathEnv  = "LAYERTRACE_PLAIN_TEST_PATH"  // without the first slash
)

const (
	edgePort  = "80" // below 1024, as a proxy's
	shopPort  = "9000"
	stockPort = "9001"
	nobody    = 65534
)

var roles = map[string]func(){
	"edge":   edge,
	"shop":   func() { serve(listen("shop", shopPort), forward(stockPort)) },
	"stock":  func() { serve(listen("stock", stockPort), respond) },
	"client": client,
}

// edge binds as root and forwards as another user, as nginx and many other servers do.
// A connection waits to be accepted until its request is there: its socket still
// belongs to the user of the listener then.
func edge() {
	listener := listen("edge", edgePort)
	check(syscall.Setresgid(nobody, nobody, nobody))
	check(syscall.Setresuid(nobody, nobody, nobody))
	serve(patient{listener}, forward(shopPort))
}

// patient accepts a connection when the client says that its request is sent.
type patient struct{ net.Listener }

func (p patient) Accept() (net.Conn, error) {
	for {
		if os.Remove(marker("sent")) == nil {
			return p.Listener.Accept()
		}
		time.Sleep(time.Millisecond)
	}
}

// slowTakes is what stock takes for paths below slowPath: more than any wait for a CPU.
const (
	slowPath  = "/slow/"
	slowTakes = 500 * time.Millisecond
)

func respond(w http.ResponseWriter, r *http.Request) {
	takes := stockTakes
	if strings.HasPrefix(r.URL.Path, slowPath) {
		takes = slowTakes
	}
	time.Sleep(takes)
	fmt.Fprintln(w, "ok")
}

// forward passes a request on with its trace context as it is.
func forward(port string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		next, err := http.NewRequestWithContext(r.Context(), r.Method, "http://127.0.0.1:"+port+r.URL.Path, nil)
		check(err)
		if context := r.Header.Get("traceparent"); context != "" {
			next.Header.Set("traceparent", context)
		}
		response, err := http.DefaultClient.Do(next)
		check(err)
		defer response.Body.Close()
		w.WriteHeader(response.StatusCode)
		_, err = io.Copy(w, response.Body)
		check(err)
	}
}

// contextLine is the header line of a trace, "" without one.
func contextLine(trace string) string {
	if trace == "" {
		return ""
	}
	return "traceparent: 00-" + trace + "-00f067aa0ba902b7-01\r\n"
}

// client sends one request and closes the connection.
func client() {
	conn, err := net.Dial("tcp", "127.0.0.1:"+edgePort)
	check(err)
	_, err = fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: edge\r\n%s\r\n", os.Getenv(pathEnv), contextLine(os.Getenv(traceEnv)))
	check(err)
	check(os.WriteFile(marker("sent"), nil, 0o666))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	check(err)
	_, err = io.Copy(io.Discard, response.Body)
	check(err)
	if response.StatusCode != http.StatusOK {
		check(fmt.Errorf("status %s", response.Status))
	}
	check(conn.Close())
}

func listen(role, port string) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	check(err)
	check(os.WriteFile(marker(role+".ready"), nil, 0o666))
	return l
}

func serve(l net.Listener, handle http.HandlerFunc) { check(http.Serve(l, handle)) }

func marker(name string) string { return filepath.Join(os.Getenv(dirEnv), name) }

func check(err error) {
	if err != nil {
		panic(err)
	}
}
