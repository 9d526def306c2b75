// SPDX-License-Identifier: Apache-2.0

package pictures

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// maxPicture is the largest picture, in bytes.
const maxPicture = 300_000

// A picture is a page and the size in which it is shown.
type picture struct {
	url           string
	width, height int
}

// photograph writes a picture of a page as a PNG. The browser runs in the lab's
// network, with a profile of its own that is removed.
func photograph(ctx context.Context, l *lab.Lab, v picture, file string) (err error) {
	profile, err := os.MkdirTemp("", "layertrace-pictures-")
	if err != nil {
		return fmt.Errorf("photograph %s: %w", v.url, err)
	}
	defer os.RemoveAll(profile)
	browser, err := sandbox.Start(sandbox.Spec{
		Name: "chromium", Path: "/usr/bin/env",
		Args: []string{
			"chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
			"--user-data-dir=" + profile, "--lang=en", "--font-render-hinting=none",
			// The clock of the page runs ahead until it has nothing more to do.
			"--virtual-time-budget=20000",
			fmt.Sprintf("--window-size=%d,%d", v.width, v.height), "--screenshot=" + file, v.url,
		},
		Namespace: l.InfraNamespace(), Cgroup: l.InfraGroup(),
		Stderr: filepath.Join(profile, "chromium.log"),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := browser.Wait(ctx); err != nil {
		return errors.Join(fmt.Errorf("photograph %s: %w\n%s", v.url, err, browser.Tail()), browser.Kill())
	}
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return fmt.Errorf("photograph %s: %w\n%s", v.url, err, browser.Tail())
	case info.Size() > maxPicture:
		return fmt.Errorf("photograph %s: %s has %d bytes, at most %d are allowed: make the window smaller", v.url, file, info.Size(), maxPicture)
	}
	return nil
}
