package catalogue

// template is a URI template that URIs can be matched with.
type template struct{}
