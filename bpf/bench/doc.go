// SPDX-License-Identifier: Apache-2.0

// Command bench measures what one packet costs in the capture programs, in ns
// and as a ratio to an empty program, both measured alternately in one run; what a
// write outside of the chosen cgroups costs; what an empty program costs at
// each hook, and what empty programs and ours cost a message with cold caches.
package main

//go:generate go tool bpf2go -cc clang -target bpfel -go-package main Bench bench.bpf.c -- -mcpu=v3 -Wall -Werror -Wno-initializer-overrides -I/usr/include/x86_64-linux-gnu
