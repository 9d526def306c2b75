// SPDX-License-Identifier: Apache-2.0

// Command layertrace shows each request of a service mesh at every network
// interface that it passes.
package main

import (
	"os"

	"github.com/layertrace/layertrace/agent/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
