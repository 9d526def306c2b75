// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A list of pods is read one by one. client-go would hold the whole answer and
// all of its objects, hundreds of MiB for 10,000 pods; and an answer in pages,
// which are smaller, servers before 1.34 read from etcd.
//
// The format (apimachinery, pkg/runtime/serializer/protobuf, and the .proto
// files of runtime.Unknown and core/v1): "k8s\0", then a message whose field 2
// is a PodList, whose field 1 is its ListMeta and field 2 each Pod.
const (
	magic        = "k8s\x00"
	fieldRaw     = 2
	fieldMeta    = 1
	fieldItem    = 2
	wireBytes    = 2       // the wire type of all fields here
	largestField = 8 << 20 // a Pod: etcd takes 1.5 MiB
)

// readList reads a PodList in the encoding above.
func readList(r io.Reader) (*records, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var prefix [len(magic)]byte
	if _, err := io.ReadFull(in, prefix[:]); err != nil {
		return nil, fmt.Errorf("read a list of pods: %w", err)
	}
	if string(prefix[:]) != magic {
		return nil, errors.New("read a list of pods: the answer is not in Kubernetes' protobuf encoding")
	}
	for {
		number, size, err := readField(in)
		switch {
		case err != nil:
			return nil, fmt.Errorf("read a list of pods: %w", complete(err))
		case number != fieldRaw:
			err = skip(in, size)
		default:
			list := &records{}
			body := &io.LimitedReader{R: in, N: int64(size)}
			if err = readItems(bufio.NewReader(body), list); err == nil && body.N != 0 {
				err = io.ErrUnexpectedEOF
			}
			if err == nil {
				return list, nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read a list of pods: %w", err)
		}
	}
}

// readItems reads a PodList until its end.
func readItems(in *bufio.Reader, list *records) error {
	var buffer []byte
	for {
		number, size, err := readField(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if number != fieldMeta && number != fieldItem {
			if err := skip(in, size); err != nil {
				return err
			}
			continue
		}
		if size > largestField {
			return fmt.Errorf("an object of %d bytes", size)
		}
		if uint64(cap(buffer)) < size {
			buffer = make([]byte, size)
		}
		buffer = buffer[:size]
		if _, err := io.ReadFull(in, buffer); err != nil {
			return complete(err)
		}
		if err := list.take(number, buffer); err != nil {
			return err
		}
	}
}

// take decodes one field of the PodList. Nothing of it refers to data later.
func (r *records) take(number uint64, data []byte) error {
	if number == fieldMeta {
		r.ListMeta = meta.ListMeta{}
		return r.ListMeta.Unmarshal(data)
	}
	var p core.Pod
	if err := p.Unmarshal(data); err != nil {
		return err
	}
	r.Items = append(r.Items, *newRecord(&p))
	return nil
}

// readField reads the head of a field: its number and length. At the end of
// the message the error is io.EOF.
func readField(in *bufio.Reader) (number, size uint64, err error) {
	tag, err := binary.ReadUvarint(in)
	if err != nil {
		return 0, 0, err
	}
	if tag&7 != wireBytes {
		return 0, 0, fmt.Errorf("field %d has wire type %d", tag>>3, tag&7)
	}
	size, err = binary.ReadUvarint(in)
	return tag >> 3, size, complete(err)
}

func skip(in *bufio.Reader, size uint64) error {
	_, err := io.CopyN(io.Discard, in, int64(size))
	return complete(err)
}

// complete makes an end in the middle an error.
func complete(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
