// SPDX-License-Identifier: Apache-2.0

// Package verify proves the injectors: what they say that a fault took is held
// against how much longer the client had to wait than without a fault.
package verify

import (
	"context"
	"errors"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/inject"
)

// Row is one injected fault.
type Row struct {
	inject.Made
	Case faults.Case
	// Err is inject.ErrMissed, if not nil.
	Err error
}

// Run injects each case and tells what came of it, a row each.
func Run(ctx context.Context, s *inject.Session, cases []faults.Case) (rows []Row, err error) {
	defer s.Load.Set(false)
	if err := s.WarmUp(ctx); err != nil {
		return nil, err
	}
	for _, c := range cases {
		made, err := s.Make(ctx, c)
		if err != nil && !errors.Is(err, inject.ErrMissed) {
			return rows, err
		}
		rows = append(rows, Row{made, c, err})
	}
	return rows, nil
}
