"""Other places where people answer: Amazon Mechanical Turk and Label Studio."""
