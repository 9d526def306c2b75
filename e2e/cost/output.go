// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// requestsInCapture counts the TCP segments in a capture of Ethernet that begin with the
// clients' request.
func requestsInCapture(path string) (count int, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	reader, err := pcapgo.NewReader(bufio.NewReaderSize(file, 1<<20))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	var (
		ethernet layers.Ethernet
		ip       layers.IPv4
		tcp      layers.TCP
		decoded  []gopacket.LayerType
	)
	parser := gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &ethernet, &ip, &tcp)
	parser.IgnoreUnsupported = true
	for {
		data, _, err := reader.ZeroCopyReadPacketData()
		if errors.Is(err, io.EOF) {
			return count, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read packet %d of %s: %w", count+1, path, err)
		}
		if err := parser.DecodeLayers(data, &decoded); err != nil {
			return 0, fmt.Errorf("decode a packet of %s: %w", path, err)
		}
		if len(decoded) == 3 && bytes.HasPrefix(tcp.Payload, []byte("GET / HTTP/1.1\r\n")) {
			count++
		}
	}
}

// linesWith counts the lines of a file that have all these words.
func linesWith(path string, words ...string) (count int, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
next:
	for lines.Scan() {
		for _, word := range words {
			if !bytes.Contains(lines.Bytes(), []byte(word)) {
				continue next
			}
		}
		count++
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return count, nil
}
