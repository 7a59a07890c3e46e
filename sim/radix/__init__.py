"""SGLang's radix cache: a tree of token runs over pools of slots."""
