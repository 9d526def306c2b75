// SPDX-License-Identifier: Apache-2.0

// Command layertrace extends the traces of Istio and Envoy below the application:
// sockets, interfaces, network.
package main

import (
	"os"

	"github.com/layertrace/layertrace/agent/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
