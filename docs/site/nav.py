"""The order of the site's pages: a section each, with the pages in it. A page that is in none fails the build."""

SECTIONS: dict[str, tuple[str, ...]] = {
    "Start": ("install", "tutorial", "concepts", "demo"),
    "Notebooks": ("files/examples/first_attribution", "files/examples/following_a_training_run"),
    "Attribution": ("method", "methods", "certificate", "metrics", "statistics"),
    "What to ask about": ("facts", "tasks", "families", "checkpoints", "importing"),
    "Runs": ("runs", "experiment-file", "live", "scale", "studies", "pruning"),
    "Results": ("results", "report", "explore"),
    "Reference": ("cli", "api"),
    "What was found": ("findings/README", "benchmarks", "compared"),
    "Help": ("coming-from", "published", "faq", "reliability", "safety"),
    "The project": ("architecture", "release", "files/CONTRIBUTING", "files/CHANGELOG"),
}
