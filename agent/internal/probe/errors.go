// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"io/fs"
)

var errPermission = fs.ErrPermission

// ErrNotAttached is returned when an interface without programs is detached.
var ErrNotAttached = errors.New("no capture programs are attached")
