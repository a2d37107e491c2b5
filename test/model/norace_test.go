//go:build !race

package model

// slower is by how much the race detector is taken to slow a search down.
const slower = 1
