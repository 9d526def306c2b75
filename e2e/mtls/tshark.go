// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/app"
)

// frame is what tshark decrypted of a frame of a capture.
type frame struct {
	// kinds are the types of the records that end in the frame, after decryption. Records
	// that it cannot decrypt are missing.
	kinds []uint8
	// requests are the heads of requests that end in the frame, codes the status codes of
	// responses.
	requests []head
	codes    []int
}

// head is of a request.
type head struct {
	traceID, spanID, path string
	sampled               bool
}

// decrypt has tshark decrypt a capture with the secrets in a key log, and returns what it
// found by frame number. Records are not put together to messages, so that a head is found
// in the frame of its record, which is one because Envoy writes a head at once.
func decrypt(ctx context.Context, capture, keyLog string) (map[int]frame, error) {
	path, err := exec.LookPath("tshark")
	if err != nil {
		return nil, fmt.Errorf("decrypt a capture (install tshark): %w", err)
	}
	port := strconv.Itoa(lab.AppPort)
	args := []string{
		"-n", "-r", capture, "-Y", "tls.record",
		"-o", "tls.keylog_file:" + keyLog, "-d", "tcp.port==" + port + ",tls", "-d", "tls.port==" + port + ",http",
		"-o", "tls.desegment_ssl_application_data:FALSE", "-o", "tcp.reassemble_out_of_order:TRUE",
		"-T", "fields", "-E", "occurrence=a", "-E", "aggregator=,",
	}
	fields := []string{"frame.number", "tls.record.content_type", "http.request.method", "http.request.uri", "http.response.code"}
	for _, name := range traceHeaders {
		// A user-defined field of the HTTP dissector, http.header.NAME.
		args = append(args, "-o", fmt.Sprintf(`uat:custom_http_header_fields:"%s",""`, name))
		fields = append(fields, "http.header."+name)
	}
	for _, field := range fields {
		args = append(args, "-e", field)
	}
	command := exec.CommandContext(ctx, path, args...)
	// Without a user's preferences.
	command.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+filepath.Dir(capture))
	var failure bytes.Buffer
	command.Stderr = &failure
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start tshark: %w", err)
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start tshark: %w", err)
	}
	frames, err := readFrames(bufio.NewReader(out), len(fields))
	if err := errors.Join(err, command.Wait()); err != nil {
		return nil, fmt.Errorf("decrypt %s with tshark: %w\n%s", capture, err, failure.Bytes())
	}
	return frames, nil
}

// traceHeaders are read from requests.
var traceHeaders = []string{"traceparent", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"}

func readFrames(out *bufio.Reader, fields int) (map[int]frame, error) {
	frames := map[int]frame{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		columns := strings.Split(lines.Text(), "\t")
		if len(columns) != fields {
			return nil, fmt.Errorf("read tshark's output: %d columns, want %d: %q", len(columns), fields, lines.Text())
		}
		number, err := strconv.Atoi(columns[0])
		if err != nil {
			return nil, fmt.Errorf("read tshark's output: %w", err)
		}
		var f frame
		for _, kind := range list(columns[1]) {
			n, err := strconv.Atoi(kind)
			if err != nil {
				return nil, fmt.Errorf("read tshark's output: %w", err)
			}
			f.kinds = append(f.kinds, uint8(n))
		}
		for i := range list(columns[2]) {
			headers := map[string]string{}
			for j, name := range traceHeaders {
				headers[name] = nth(columns[5+j], i)
			}
			h := head{path: nth(columns[3], i)}
			h.traceID, h.spanID = app.TraceIDs(headers)
			h.sampled = headers["x-b3-sampled"] == "1" || strings.HasSuffix(headers["traceparent"], "-01")
			f.requests = append(f.requests, h)
		}
		for _, code := range list(columns[4]) {
			n, err := strconv.Atoi(code)
			if err != nil {
				return nil, fmt.Errorf("read tshark's output: %w", err)
			}
			f.codes = append(f.codes, n)
		}
		frames[number] = f
	}
	return frames, lines.Err()
}

func list(column string) []string {
	if column == "" {
		return nil
	}
	return strings.Split(column, ",")
}

func nth(column string, i int) string {
	if all := list(column); i < len(all) {
		return all[i]
	}
	return ""
}
