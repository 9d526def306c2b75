// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxDescriptors bounds how many of a process's files are searched for its listeners.
const maxDescriptors = 4096

// stateListen is TCP_LISTEN of include/net/tcp_states.h, as procfs prints it.
const stateListen = "0A"

// Listeners returns where a process listens, as far as procfs shows it: the addresses
// are unspecified (0.0.0.0, ::) for all addresses.
func (p *Processes) Listeners(x Process) (all []netip.AddrPort) {
	if !p.isAlive(x) {
		return nil
	}
	sockets := p.sockets(x)
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		lines := p.read(x, table, "\n")
		for _, line := range lines[min(1, len(lines)):] { // the first has the titles
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != stateListen || !sockets[fields[9]] {
				continue
			}
			if at, ok := parseProcAddress(fields[1]); ok {
				all = append(all, at)
			}
		}
	}
	return all
}

// sockets returns the inode numbers of a process's sockets.
func (p *Processes) sockets(x Process) map[string]bool {
	sockets := map[string]bool{}
	dir, err := os.Open(p.file(x, "fd"))
	if err != nil {
		return sockets
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxDescriptors)
	if err != nil {
		return sockets
	}
	for _, name := range names {
		to, err := os.Readlink(filepath.Join(dir.Name(), name))
		if inode, ok := strings.CutPrefix(to, "socket:["); err == nil && ok {
			sockets[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return sockets
}

// parseProcAddress reads an address and port of /proc/net/tcp or tcp6: 32-bit words of
// the address in the machine's byte order, then the port, all in hex digits.
func parseProcAddress(text string) (at netip.AddrPort, ok bool) {
	words, port, _ := strings.Cut(text, ":")
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return at, false
	}
	raw, err := hex.DecodeString(words)
	if err != nil || len(raw)%4 != 0 {
		return at, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), ok
}
