// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"io"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/layertrace/layertrace/e2e/reorder/proxy"
)

// http2Window is the flow control window in bytes for bodies; larger than any
// of the requests sent here, so that it is never updated.
const http2Window = 1 << 24

// serveHTTP2 answers requests until the connection ends (RFC 9113). The frames
// of a header block are decoded in their order.
func (s *Server) serveHTTP2(r io.Reader, conn net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(r, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	framer := http2.NewFramer(conn, r)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: http2Window}) != nil ||
		framer.WriteWindowUpdate(0, http2Window) != nil {
		return
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return // the proxy closed the connection
		}
		if err := s.handleFrame(framer, frame); err != nil {
			return
		}
	}
}

func (s *Server) handleFrame(framer *http2.Framer, frame http2.Frame) error {
	ended := false
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return framer.WritePing(true, f.Data)
		}
	case *http2.MetaHeadersFrame:
		head := Head{Protocol: proxy.HTTP2}
		for _, field := range f.Fields {
			head.Fields = append(head.Fields, Field{field.Name, field.Value})
		}
		s.keep(head)
		ended = f.StreamEnded()
	case *http2.DataFrame:
		ended = f.StreamEnded()
	}
	if !ended {
		return nil
	}
	return s.answerHTTP2(framer, frame.Header().StreamID)
}

func (s *Server) answerHTTP2(framer *http2.Framer, stream uint32) error {
	status := "200"
	switch s.nextAnswer() {
	case Unavailable:
		status = "503"
	case Reset:
		return framer.WriteRSTStream(stream, http2.ErrCodeInternal)
	}
	var block bytes.Buffer
	if err := hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: status}); err != nil {
		return err
	}
	return framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true,
	})
}
