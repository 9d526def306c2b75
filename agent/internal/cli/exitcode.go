// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// Exit codes of all commands (docs/versioning.md).
const (
	exitFailed  = 1 // the command failed, or reports something that does not work
	exitUsage   = 2 // wrong flags, arguments or settings: nothing was done
	exitNothing = 3 // what was asked for does not exist
)

// reported is the exit code of a command that printed its result.
type reported int

func (r reported) Error() string { return fmt.Sprintf("reported, exit code %d", int(r)) }

// usageError is an error of whoever wrote the command line or the settings.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// usage marks an error as one of usage.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// errNothing is wrapped by errors about things that do not exist.
var errNothing = errors.New("found nothing")

// nothing marks an error as one about something that does not exist.
type nothing struct{ error }

func (n nothing) Is(target error) bool { return target == errNothing }
func (n nothing) Unwrap() error        { return n.error }

// exitCode returns the exit code for a command's error. Errors from before a command runs
// are about flags and arguments.
func exitCode(err error, ran bool) int {
	var code reported
	var wrong usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &wrong), !ran:
		return exitUsage
	case errors.Is(err, errNothing), errors.Is(err, tracestore.ErrNotFound):
		return exitNothing
	}
	return exitFailed
}
