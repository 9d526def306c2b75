// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/cgroup"
	"github.com/layertrace/layertrace/e2e/lab/netspace"
)

// Down ends every process of the lab and removes its cgroups and network
// namespaces, and with them links, BPF programs and redirections. It can be
// called on a lab that is only half up, and again.
func (l *Lab) Down() error {
	if l.lock == nil {
		return nil
	}
	// A context of its own: the lab must also go when its context is done.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	if l.Jaeger != nil {
		l.Jaeger.Close()
	}
	if l.group != nil {
		errs = append(errs, l.group.Remove(ctx))
	}
	errs = append(errs, l.network.delete(), l.lock.Close())
	l.lock = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the lab down (the next run tries again): %w", err)
	}
	return nil
}

// removeLeftovers removes what a killed lab of the same name left behind.
func removeLeftovers(ctx context.Context, name, prefix string, progress func(string, ...any)) error {
	found, err := cgroup.RemoveNamed(ctx, groupName(name))
	if err != nil {
		return fmt.Errorf("end the processes of an earlier lab: %w", err)
	}
	spaces, err := netspace.DeleteAll(prefix)
	if err != nil {
		return fmt.Errorf("remove the network of an earlier lab: %w", err)
	}
	if found || spaces > 0 {
		progress("removed what an earlier run left behind (%d network namespaces)", spaces)
	}
	return nil
}

func groupName(lab string) string { return "layertrace-lab-" + lab }

// takeName makes sure that no other lab of this name is up. The abstract
// socket is gone when this process is, however it ends.
func takeName(name string) (net.Listener, error) {
	lock, err := net.Listen("unix", "@"+groupName(name))
	if err != nil {
		return nil, fmt.Errorf("another lab named %q is up; end it first: %w", name, err)
	}
	return lock, nil
}
