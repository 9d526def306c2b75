// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"

	"github.com/layertrace/layertrace/e2e/faults/matrix"
)

const faultsTitle = "Which layer was slow: faults and verdicts"

// writePage writes the page of --markdown, if there is to be one.
func (f *faultsRun) writePage(score matrix.Score, note string) (err error) {
	if f.markdown == "" {
		return nil
	}
	file, err := os.Create(f.markdown)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return score.WritePage(file, faultsTitle, note, "Made by `lab faults --markdown`.")
}
