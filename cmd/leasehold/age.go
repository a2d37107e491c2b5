package main

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// since says in few characters how long ago something was; - when that is not
// known.
func since(then *timestamppb.Timestamp, now time.Time) string {
	if then == nil {
		return "-"
	}
	return brief(now.Sub(then.AsTime()))
}

// brief rounds a duration down to its largest unit, or to two where one would
// leave out much. Clocks differ: less than nothing is nothing.
func brief(d time.Duration) string {
	d = max(d, 0)
	hours := int(d.Hours())
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case hours < 48:
		return fmt.Sprintf("%dh", hours)
	}
	return fmt.Sprintf("%dd", hours/24)
}
