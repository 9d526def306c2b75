// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
)

// tapped is a connection whose writes are segments.
type tapped struct {
	net.Conn
	write func([]byte)
}

func (t *tapped) Write(p []byte) (int, error) {
	t.write(bytes.Clone(p))
	return t.Conn.Write(p)
}

// The heads of requests on a connection of Go's TLS, which logs its secrets, are revealed:
// the first, which comes with the end of the handshake, later ones, and one cut off.
func TestRevealerDecryptsHeads(t *testing.T) {
	client, server := net.Pipe()
	src, dst := netip.MustParseAddrPort("10.0.0.1:40000"), netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), lab.AppPort)
	var sent []segment
	next := uint32(1<<32 - 1000) // sequence numbers wrap
	tap := &tapped{client, func(p []byte) {
		sent = append(sent, segment{Src: src, Dst: dst, Seq: next, Length: len(p), Data: p})
		next += uint32(len(p))
	}}
	file := filepath.Join(t.TempDir(), "keys")
	keys, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	certificate := selfSigned(t)
	go func() {
		end := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
		_, _ = io.Copy(io.Discard, end) // ends with the connection
	}()
	conn := tls.Client(tap, &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // the test's own server
		KeyLogWriter:       keys, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13,
	})
	for i := range 20 {
		if _, err := fmt.Fprintf(conn, "GET /%d HTTP/1.1\r\nhost: a\r\n\r\n", i); err != nil {
			t.Fatal(err)
		}
	}
	if conn.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Fatalf("%s was chosen", tls.CipherSuiteName(conn.ConnectionState().CipherSuite))
	}
	r := &revealer{files: []string{file}, keys: map[string]secret{}, conns: map[connectionEnds]*encryptedConnection{}}
	found := 0
	for _, s := range sent {
		r.follow(s)
		cut := s
		cut.Data = s.Data[:min(len(s.Data), recordHeader+10)]
		want := fmt.Sprintf("GET /%d HTTP/1.1\r\n", found)
		if got := r.reveal(s); bytes.HasPrefix(got.Data, []byte(want)) {
			if again := r.reveal(cut); !bytes.HasPrefix([]byte(want), again.Data[:10]) {
				t.Errorf("the beginning of request %d is %q", found, again.Data)
			}
			found++
		} else if !bytes.Equal(got.Data, s.Data) {
			t.Errorf("a segment of %d bytes became %q", len(s.Data), got.Data)
		}
	}
	if found != 20 {
		t.Errorf("%d of 20 requests were revealed", found)
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
