"""Packaging of the product: contracts, models, jobs, serving and the `overture` command.

The library `blockfactor` is a distribution of its own, with its own pyproject.toml.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
ROOMS = ("contracts", "models", "jobs", "serving")


def requirements(name: str) -> list[str]:
    """Return the requirements in requirements/<name>.in, without comments."""
    lines = (ROOT / "requirements" / f"{name}.in").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


setup(
    name="overture",
    version="0.4.0",
    description="MLOps for music recommendation: cold start of new listeners, skip prediction, weekly releases",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="recommender-systems, music, cold-start, mlops, spark, airflow, mlflow",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")]),
    package_data={
        "contracts": ["py.typed", "*.yaml", "published/*.yaml"],
        "models": ["py.typed"],
        "jobs": ["py.typed"],
        "serving": ["py.typed", "page/*"],
    },
    extras_require={
        "jobs": [*requirements("jobs"), "blockfactor==0.1.0"],
        "service": requirements("service"),
        "airflow": requirements("airflow"),
        "dev": requirements("dev"),
    },
    entry_points={"console_scripts": ["overture = jobs.cli.main:main"]},
)
