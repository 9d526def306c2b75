// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cilium/ebpf"

	"github.com/layertrace/layertrace/bpf"
)

// drivers sees when the queues of the watched interfaces let packets go to their
// drivers, and what the kernel drops there.
type drivers struct {
	collection *ebpf.Collection
	links      attachments
	words      map[uint32]uint64 // of the bits that say what is watched
}

// driverPoints are what the driver programs are attached to. Reasons of drops
// came to kfree_skb with 5.17.
var driverPoints = []tracepoint{
	{bpf.DriverProgQdiscDequeue, "qdisc_dequeue", 4, "when drivers get packets is not known: the node driver counts as relay network"},
	{bpf.DriverProgPacketDrop, "kfree_skb", 3, "dropped packets are not known"},
}

// openDrivers loads the driver programs, which share the interface programs'
// maps, and attaches them. They look at the interfaces that are told to watch.
// Nil: this kernel has none of the tracepoints.
func openDrivers(o *Options, k *kernelSide) (*drivers, error) {
	spec, err := bpf.LoadDriver()
	if err != nil {
		return nil, fmt.Errorf("read driver programs: %w", err)
	}
	sizeMaps(spec, o)
	netns, err := ownNetns()
	if err != nil {
		return nil, err
	}
	if err := setAll(spec, map[string]any{bpf.DriverVarWatchedNetns: netns}); err != nil {
		return nil, err
	}
	if left, err := leaveOut(spec, driverPoints, o.Log); err != nil || left == 0 {
		return nil, err
	}
	d := &drivers{words: map[uint32]uint64{}}
	if d.collection, err = k.load(spec); err != nil {
		return nil, loadError("driver", err)
	}
	if err := d.links.trace(d.collection, driverPoints); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// ownNetns returns the inode number of the process's network namespace.
func ownNetns() (uint32, error) {
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("find out this network namespace's number: %w", err)
	}
	return uint32(st.Ino), nil
}

func (d *drivers) watch(ifindex int) error {
	if err := d.mark(ifindex, true); err != nil {
		return fmt.Errorf("watch the driver of interface %d: %w", ifindex, err)
	}
	return nil
}

func (d *drivers) leave(ifindex int) error {
	if err := d.mark(ifindex, false); err != nil {
		return fmt.Errorf("leave the driver of interface %d: %w", ifindex, err)
	}
	return nil
}

// mark tells the programs whether an interface is watched: by a bit or, where
// its number is higher than there are bits, by an entry.
func (d *drivers) mark(ifindex int, watched bool) error {
	words, high := d.collection.Maps[bpf.DriverMapWatchedInterfaces], d.collection.Maps[bpf.DriverMapWatchedHigh]
	word, bit := uint32(ifindex/64), uint64(1)<<(ifindex%64)
	switch {
	case word < words.MaxEntries():
		d.words[word] &^= bit
		if watched {
			d.words[word] |= bit
		}
		return words.Put(word, d.words[word])
	case watched:
		return high.Put(uint32(ifindex), uint8(1))
	default:
		if err := high.Delete(uint32(ifindex)); !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		return nil
	}
}

// told reports whether it is seen when drivers get packets.
func (d *drivers) told() bool {
	return d != nil && d.collection.Programs[bpf.DriverProgQdiscDequeue] != nil
}

// Close ends the watching.
func (d *drivers) Close() error {
	err := d.links.Close()
	d.collection.Close()
	return err
}
