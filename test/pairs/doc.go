// Package pairs tests real clients with real servers, each pair once directly
// and once through a Leasehold of two workers, to which its requests go in turn;
// and the clients with all of the servers behind one gateway.
package pairs
