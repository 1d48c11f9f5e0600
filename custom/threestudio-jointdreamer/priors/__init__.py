"""What a diffusion prior is: noise schedule, latent prior, multi-view UNet, loading."""
