// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"log/slog"
	"os"

	"github.com/layertrace/layertrace/agent/internal/probe"
)

// tryCapture loads the agent's own programs and puts them on an interface, as
// the last word: the verifier of this kernel may refuse what its features
// would allow. One mode that works is enough.
func tryCapture() error {
	automatic := tryMode(probe.ModeAuto)
	if automatic == nil {
		return nil
	}
	if err := tryMode(probe.ModeSocketFilter); err != nil {
		return errors.Join(automatic, err)
	}
	return nil
}

func tryMode(mode probe.Mode) error { return tryProbe(probe.Options{Mode: mode}) }

// tryLayers loads what an agent with --spans=layers adds, of which the kernel's
// verifier may refuse something that its features do not tell.
func tryLayers() error {
	return inCgroup(func(dir string) error {
		return tryProbe(probe.Options{SocketCgroups: []string{dir}, Drivers: true})
	})
}

func tryProbe(o probe.Options) error {
	o.MaxConnections, o.RingBytes, o.Log = 16, os.Getpagesize(), slog.New(slog.DiscardHandler)
	return inNamespace(true, func() error {
		p, err := probe.Open(o)
		if err != nil {
			return err
		}
		return errors.Join(p.Attach(loopback), p.Close())
	})
}
