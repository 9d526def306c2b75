// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"strconv"

	"github.com/layertrace/layertrace/internal/recent"
)

// Names of waypoints, pods and what lies between are put together from the same few parts for
// each request, so their texts are kept.

// maxTexts is the number of texts of a kind that are kept, twice, some 200 bytes each.
const maxTexts = 2048

var (
	joined  = recent.New(maxTexts, func(p [5]string) string { return p[0] + p[1] + p[2] + p[3] + p[4] })
	ofNetns = recent.New(maxTexts, func(n netns) string {
		return n.node + "/netns/" + strconv.FormatUint(uint64(n.inode), 10)
	})
)

// text returns up to five parts as one text.
func text(parts ...string) string {
	var p [5]string
	copy(p[:], parts)
	return joined.Get(p)
}

// netns is a network namespace of a node.
type netns struct {
	node  string
	inode uint32
}
