package session

// Query asks for a page of sessions.
type Query struct {
	// Filter says which.
	Filter Filter
	// After is the last session of the page before.
	After Key
	// Size is how many sessions are returned at most. Required.
	Size int
	// Ended also returns sessions that have ended.
	Ended bool
}
