"""The Yambda dataset (Yandex Music, 2025): listens, likes and dislikes, for both engines."""
