package gen

func (s *Schema) Check() error { return nil }
