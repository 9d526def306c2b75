// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/layertrace/layertrace/e2e/lab"
)

// revealer decrypts the heads of requests between pods for the injectors, which have to know
// which segments are of a trace. Envoys of a lab with TLS 1.3 log their secrets to files.
//
// It follows what each pod sends to others from the start, because a record is decrypted by
// its number. Only the first record of a segment is decrypted, as far as the segment has it,
// and not authenticated: nothing but the trace ID in it is of interest.
type revealer struct {
	captures []*capture

	mu    sync.Mutex
	files []string          // with secrets, one for each pod
	keys  map[string]secret // by the client's random number
	conns map[connectionEnds]*encryptedConnection
}

type connectionEnds struct{ client, server netip.AddrPort }

// secret is what decrypts the application data of a client.
type secret struct {
	block cipher.Block
	iv    []byte
}

// encryptedConnection is what a client has sent.
type encryptedConnection struct {
	random string
	// next is the sequence number of the next record's header, count the number of records of
	// application data before it.
	next  uint32
	count uint64
	// begin has the sequence numbers of the last records and their numbers.
	begin map[uint32]uint64
	// first are the first records as far as they passed in their first segment: some of the
	// handshake, whose number handshake is, unknown while it is negative.
	first     [][]byte
	handshake int
}

// startRevealer follows the connections of a lab's pods from now on.
func startRevealer(l *lab.Lab, run *lab.Run) (*revealer, error) {
	r := &revealer{keys: map[string]secret{}, conns: map[connectionEnds]*encryptedConnection{}}
	for _, pod := range lab.Pods {
		if len(pod.Calls) == 0 {
			continue
		}
		r.files = append(r.files, run.KeyLog(pod.Name))
		c, err := openCapture(l.NodeNamespace(pod.Node), pod.VNIC, func(s segment) {
			if s.Src.Addr().String() == pod.IP && s.Dst.Port() == lab.AppPort {
				r.follow(s)
			}
		})
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.captures = append(r.captures, c)
	}
	return r, nil
}

// Close ends it.
func (r *revealer) Close() error { return closeAll(r.captures) }

const (
	recordHeader    = 5
	recordHandshake = 22
	applicationData = 23
	// helloRandom is where a ClientHello record has the client's random number.
	helloRandom = 11
	// maxFirst is the number of a connection's first records that are kept, maxRecords that
	// of records whose number is known.
	maxFirst   = 6
	maxRecords = 512
)

// follow notes the records in a segment from a client.
func (r *revealer) follow(s segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := connectionEnds{s.Src, s.Dst}
	c := r.conns[key]
	if len(s.Data) > helloRandom+32 && s.Data[0] == recordHandshake && s.Data[recordHeader] == 1 {
		c = &encryptedConnection{random: string(s.Data[helloRandom : helloRandom+32]), next: s.Seq, begin: map[uint32]uint64{}, handshake: -1}
		r.conns[key] = c
	}
	if c == nil {
		return
	}
	for int32(s.end()-c.next) > 0 && int32(c.next-s.Seq) >= 0 {
		data := s.Data[c.next-s.Seq:]
		if len(data) < recordHeader {
			delete(r.conns, key) // a header in two segments: Envoy does not write so
			return
		}
		if data[0] == applicationData {
			if len(c.first) < maxFirst {
				c.first = append(c.first, bytes.Clone(data[:min(len(data), 64)]))
			}
			if len(c.begin) == maxRecords {
				clear(c.begin)
			}
			c.begin[c.next] = c.count
			c.count++
		}
		c.next += recordHeader + uint32(binary.BigEndian.Uint16(data[3:]))
	}
}

// reveal returns the segment with the plain text of the record that it begins with, instead
// of its data, and any other segment as it is.
func (r *revealer) reveal(s segment) segment {
	if r == nil || s.Dst.Port() != lab.AppPort || len(s.Data) <= recordHeader || s.Data[0] != applicationData {
		return s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.conns[connectionEnds{s.Src, s.Dst}]
	if c == nil {
		return s
	}
	number, known := c.begin[s.Seq]
	if !known && s.Seq == c.next {
		number, known = c.count, true // it passes here before it is followed
	}
	key, ok := r.key(c.random)
	if !known || !ok {
		return s
	}
	for i := 0; c.handshake < 0 && i < len(c.first); i++ {
		if isHead(key.decrypt(c.first[i], 0)) {
			c.handshake = i
		}
	}
	handshake := c.handshake
	if handshake < 0 {
		handshake = int(number) // it may be the first
	}
	plain := key.decrypt(s.Data, number-uint64(handshake))
	if !isHead(plain) {
		return s
	}
	s.Data = plain
	return s
}

// isHead reports whether a plain text is the beginning of a request.
func isHead(plain []byte) bool {
	return bytes.HasPrefix(plain, []byte("GET /")) || bytes.HasPrefix(plain, []byte("POST /"))
}

// key returns the secret of a connection, which Envoy writes soon after the handshake.
func (r *revealer) key(random string) (secret, bool) {
	if key, ok := r.keys[random]; ok {
		return key, true
	}
	for _, file := range r.files {
		if err := r.readKeys(file); err != nil {
			return secret{}, false // it is written at present
		}
	}
	key, ok := r.keys[random]
	return key, ok
}

// readKeys reads a key log: a line with label, client's random number and secret for each
// secret of a connection.
func (r *revealer) readKeys(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 || fields[0] != "CLIENT_TRAFFIC_SECRET_0" {
			continue
		}
		random, err1 := hex.DecodeString(fields[1])
		traffic, err2 := hex.DecodeString(fields[2])
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if _, ok := r.keys[string(random)]; !ok {
			if r.keys[string(random)], err = newSecret(traffic); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}

// newSecret derives the key and the IV of TLS_AES_128_GCM_SHA256, which Envoys agree on, from
// a traffic secret (RFC 8446, section 7.3).
func newSecret(traffic []byte) (s secret, err error) {
	if len(traffic) != sha256.Size {
		return s, fmt.Errorf("derive a key: the secret has %d bytes, not those of TLS_AES_128_GCM_SHA256", len(traffic))
	}
	expand := func(label string, length int) ([]byte, error) {
		label = "tls13 " + label
		info := binary.BigEndian.AppendUint16(nil, uint16(length))
		info = append(append(append(info, byte(len(label))), label...), 0)
		return hkdf.Expand(sha256.New, traffic, string(info), length)
	}
	key, err := expand("key", 16)
	if err != nil {
		return s, fmt.Errorf("derive a key: %w", err)
	}
	if s.iv, err = expand("iv", 12); err != nil {
		return s, fmt.Errorf("derive a key: %w", err)
	}
	s.block, err = aes.NewCipher(key)
	return s, err
}

// decrypt returns the plain text of the beginning of a record with a number: AES-GCM is
// AES-CTR from counter 2 on (RFC 5288, NIST SP 800-38D), and the nonce is the IV with the
// number (RFC 8446, section 5.3).
func (s secret) decrypt(record []byte, number uint64) []byte {
	if len(record) <= recordHeader {
		return nil
	}
	length := min(len(record)-recordHeader, int(binary.BigEndian.Uint16(record[3:])))
	counter := make([]byte, aes.BlockSize)
	copy(counter, s.iv)
	for i := range 8 {
		counter[4+i] ^= byte(number >> (56 - 8*i))
	}
	counter[15] = 2
	plain := make([]byte, length)
	cipher.NewCTR(s.block, counter).XORKeyStream(plain, record[recordHeader:recordHeader+length])
	return plain
}
