"""Install the four rooms and the `overture` command."""

from setuptools import find_packages, setup

setup(
    name="overture",
    version="0.2.0",
    description="The reference MLOps system for music recommendation: a listener's first day, and the skips after it",
    python_requires=">=3.11",
    packages=find_packages(include=["jobs*", "models*", "contracts*", "serving*", "blockfactor*"]),
    package_data={"contracts": ["*.yaml", "published/*.yaml"], "serving": ["page/*"]},
    entry_points={"console_scripts": ["overture = jobs.cli.main:main"]},
)
