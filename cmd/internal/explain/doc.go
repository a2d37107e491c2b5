// Package explain tells what the resources of the operators' API are made of, in
// the words of the proto files. Those are embedded as descriptors with their
// comments, which `make generate` makes and `make check` compares.
package explain
