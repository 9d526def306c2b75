// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/layertrace/layertrace/wasm-filter/oci"
)

// writeLayout writes the module in the file as an OCI image layout into dir, and
// tells the digest, which a WasmPlugin's sha256 has to name.
func writeLayout(dir, file, version string) error {
	module, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	digest, err := oci.Write(context.Background(), dir, module, version)
	if err != nil {
		return fmt.Errorf("image layout: %w", err)
	}
	fmt.Printf("%s:%s %s\n", dir, version, digest)
	return nil
}
