// Package manifest reads gateways from YAML and JSON files as people write them,
// and writes resources so that people can read them and the same package can
// read them again.
//
// It knows nothing of the fields of a gateway: it walks the message descriptors.
// Enum values may leave out the prefix that they all share, field names may be
// written as in the proto or in lowerCamelCase, and a field that does not exist
// is an error that names it and the field that may have been meant.
package manifest
