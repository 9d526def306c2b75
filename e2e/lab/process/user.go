// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// asUser makes cmd run as another user who may do with files what root may. The
// program is opened here, since that user could not before it runs; close the
// file when it does.
func asUser(cmd *exec.Cmd, uid uint32) (*os.File, error) {
	program, err := os.Open(cmd.Path)
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{program}
	cmd.Path = "/proc/self/fd/3"
	cmd.Dir = "/"
	cmd.SysProcAttr.Credential.Uid = uid
	cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_DAC_OVERRIDE}
	return program, nil
}
