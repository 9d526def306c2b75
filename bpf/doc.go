// SPDX-License-Identifier: Apache-2.0

// Package bpf holds layertrace's kernel programs and their generated Go bindings.
// The objects are committed, so that a build needs no clang; a test compiles them
// again and compares.
package bpf

//go:generate go tool bpf2go -cc clang -target bpfel -go-package bpf -type exchange_record -type connection -type counter -type unseen -type sweep_args -type sweep_stage -type exchange_flag -type direction -type limit Capture capture.bpf.c -- -mcpu=v3 -Wall -Werror -Wno-initializer-overrides -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang -target bpfel -go-package bpf -type option_counter Sockops sockops.bpf.c -- -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang -target bpfel -go-package bpf -type cgroup_cache Socket socket.bpf.c -- -mcpu=v3 -Wall -Werror -Wno-initializer-overrides -D__TARGET_ARCH_x86 -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang -target bpfel -go-package bpf Driver driver.bpf.c -- -mcpu=v3 -Wall -Werror -Wno-initializer-overrides -D__TARGET_ARCH_x86 -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang -target bpfel -go-package bpf -type device_counter -type sighting_record -type sighting_flag -type flow -type flow_key -type prefix_key Device device.bpf.c -- -mcpu=v3 -Wall -Werror -D__TARGET_ARCH_x86 -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang -target bpfel -go-package bpf -type encrypted_counter -type turn -type turn_message -type turn_flag -type connection -type connection_key -type points -type role Encrypted encrypted.bpf.c -- -mcpu=v3 -Wall -Werror -D__TARGET_ARCH_x86 -I/usr/include/x86_64-linux-gnu
