"""What it all says: claims, pictures, one page."""
