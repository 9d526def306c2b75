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

func tryMode(mode probe.Mode) error {
	return inNamespace(true, func() error {
		p, err := probe.Open(probe.Options{
			Mode: mode, MaxConnections: 16, RingBytes: os.Getpagesize(), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return err
		}
		return errors.Join(p.Attach(loopback), p.Close())
	})
}
