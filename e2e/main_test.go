// SPDX-License-Identifier: Apache-2.0

// Package e2e tests layertrace as a whole, in the lab: real Envoys, real network
// namespaces, the real agent and a real Jaeger. It needs root.
package e2e

import (
	"context"
	"flag"
	"sync"
	"testing"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/testrun"
)

var frontPages = flag.Int("front-pages", 10_000, "number of front page requests in the main test")

var interrupted context.Context // ends on Ctrl-C

// shared is what all tests use, one after the other.
var shared struct {
	once  sync.Once
	tools lab.Tools
	lab   *lab.Lab
	err   error
}

func TestMain(m *testing.M) {
	testrun.Main(m, &interrupted, func() error {
		if shared.lab == nil {
			return nil
		}
		return shared.lab.Down()
	})
}

// theLab returns the lab that all tests share.
func theLab(t *testing.T) *lab.Lab {
	t.Helper()
	tools := theTools(t)
	if shared.lab == nil && shared.err == nil {
		shared.lab, shared.err = lab.Up(interrupted, lab.Options{
			Name: "test", Dir: testrun.Out(t, "test-lab"), Tools: tools, Progress: testrun.Report,
		})
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.lab
}

// theTools gets and builds the programs of the lab, once.
func theTools(t *testing.T) lab.Tools {
	t.Helper()
	testrun.Needs(t, "the lab")
	shared.once.Do(func() { shared.tools, shared.err = provision.Tools(interrupted, testrun.Report) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.tools
}
