// Package usage makes a command line that explains itself: mistakes of usage
// are a kind of error of their own, every flag has a twin in the environment,
// and what is misspelt is answered with the right spelling.
package usage
