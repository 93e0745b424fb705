"""How events get in: publisher, HTTP gateway, venue register, QR posters and cards, simulator."""
